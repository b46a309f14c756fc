"""Claims on real data: a config goes in, a run folder with metrics, plots and report comes out."""
