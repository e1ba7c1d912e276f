"""The contract. Imports torch and nothing of ours."""
