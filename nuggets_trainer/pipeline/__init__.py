"""The stages composed: score a pool, plan it, choose again."""
