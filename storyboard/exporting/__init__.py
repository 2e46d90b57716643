"""Take it with you: what the notebook made, in forms that other people and tools can use."""
