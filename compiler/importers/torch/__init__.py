"""torch models to Relax: ExportedProgram, nn.Module and .pt2, through a converter table of our own."""
