"""What is compiled from C at installation, for processors."""
