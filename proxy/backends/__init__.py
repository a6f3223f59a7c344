"""What rules cannot say about a named product: its conversations and the rendering of prompts."""
