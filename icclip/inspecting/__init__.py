"""What a dataset holds, as icclip understands it: counts, captions, images, and what is wrong with them."""
