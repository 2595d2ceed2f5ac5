"""Networks: backbones and their cuts, their weights, and the classifier that is trained, saved and exported."""
