"""The HTTP service: embeddings in the dialects that clients speak, search, classification, and a page for people."""
