"""The driver of the side-by-side comparison, in parts; `bench/run` puts them together."""
