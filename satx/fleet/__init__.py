"""EC2 machines that train a study's trials: launch, list, price and terminate them."""
