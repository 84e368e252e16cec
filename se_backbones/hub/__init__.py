"""Networks as folders that the Hugging Face hub takes: weights, what rebuilds the network, a model card."""
