"""The page that shows what an update breaks. No torch, no Lightning: numpy in, one HTML file out."""
