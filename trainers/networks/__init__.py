"""Networks: convolutional ones for single streams, recurrent ones for sequences of features."""
