"""The method on arrays: golden scores, the race, the golden set. numpy alone."""
