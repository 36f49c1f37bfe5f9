"""What an evaluation of compatible embeddings says: table, figures, page. No torch: numpy in, text and HTML out."""
