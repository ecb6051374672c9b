"""Pixels: numpy and imaging libraries on arrays and bytes; opens no URI."""
