"""Models, one file a family: plain `nn.Module`s that know nothing of data or training."""
