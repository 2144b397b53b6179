"""From tensors to tensors: encoders, fusion blocks, decoders, heads; every module class a checkpoint can hold."""
