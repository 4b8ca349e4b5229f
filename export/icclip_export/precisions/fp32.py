"""float32, the graphs as the exporter writes them."""

from __future__ import annotations

from icclip.bundles.parity_record import Thresholds
from icclip_export.precisions.value import Precision

PRECISION = Precision(
    name="fp32",
    suffix="",
    bytes_per_weight=4,
    # It is the same computation in another order, so only rounding differs (1e-7 measured). Only a gate this
    # tight sees a wrong GELU (3.5e-5), and a wrong fusion shows in the components before it does in
    # the cosine. Recall may move by one query where two answers are tied.
    limits=Thresholds(
        min_cosine=1 - 1e-6,
        centred_min_cosine=0.9999,
        embedding_abs=1e-5,
        similarity_abs=1e-5,
        drop_r1=0.001,
        drop_r5=0.001,
        drop_r10=0.001,
        top10_overlap=0.999,
    ),
)
