"""Images to tables: index, preprocess, parcellate, denoise, correlate."""
