"""Does selection pay?"""
