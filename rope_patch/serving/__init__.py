"""From a call to a launch: cached launches, the first-use check, failures. Knows that there are operators, and none."""
