"""An index of embeddings that knows its encoder: building, measuring, changing and searching it, without torch."""
