"""From a tuned model to judged answers: AlpacaEval and MT-Bench. Knows no golden score and no training."""
