"""What the rendered page needs; tied to nothing else in the library."""
