"""Publishing a trained model, and fetching one: a folder on this machine or a repository of the Hugging Face hub."""
