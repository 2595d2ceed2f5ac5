"""Prediction of millions of tiles, each accounted for: plan, ledger of blocks, engine, and what is made from the blocks."""
