"""Jobs on a trained model: sampling, likelihood and evaluation, by one process or several."""
