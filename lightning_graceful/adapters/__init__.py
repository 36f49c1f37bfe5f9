"""Maps between the spaces of two embedding models, fitted afterwards: no encoder is trained."""
