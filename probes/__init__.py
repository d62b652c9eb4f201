"""One folder per thing Waggle looks into: what it needs, how it attaches, how it decodes."""
