"""What votes and ratings say, and how sure one can be. Sees ballots only."""
