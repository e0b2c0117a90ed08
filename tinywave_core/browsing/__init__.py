"""The pages of `tinywave ui`: a store, looked at. Nothing here writes to it."""
