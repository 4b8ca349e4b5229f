"""One self-contained page about one or several models: values in, HTML out."""
