"""What is measured: pictures, captions, sentences, probes, operations; intervals and columns."""
