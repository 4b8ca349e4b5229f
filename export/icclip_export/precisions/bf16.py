"""bf16, computed from the float32 graphs by a library whose CPU kernels multiply in it."""

from __future__ import annotations

from icclip.bundles.parity_record import Thresholds
from icclip_export.precisions.value import Precision

PRECISION = Precision(
    name="bf16",
    suffix="",
    # The graphs are those of float32; weights are rounded when a graph is opened.
    bytes_per_weight=0,
    # 8 bits of mantissa: small trained models measured 1 - 4e-5 at worst, of the centred cosines too, and untrained ones,
    # whose embeddings lie close together, a mean centred cosine of 1 - 1.2e-3; weights of 4 bits have 1 - 4.7e-3 at
    # best. Recall may move by half of what int8 may.
    limits=Thresholds(
        min_cosine=0.999,
        mean_cosine=0.9995,
        centred_min_cosine=0.98,
        centred_mean_cosine=0.998,
        similarity_abs=2e-2,
        drop_r1=0.005,
        drop_r5=0.003,
        drop_r10=0.003,
        top10_overlap=0.93,
        # Batches of other sizes run in other kernels, which round elsewhere: as far from each other as from the
        # checkpoint (2.3e-3 measured).
        neighbours=5e-3,
    ),
)
