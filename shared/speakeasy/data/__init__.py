"""Conversations and raw text: from files to validated items."""
