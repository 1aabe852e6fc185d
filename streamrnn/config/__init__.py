"""Settings, and the sizes that follow from them."""
