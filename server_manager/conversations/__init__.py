"""Conversations: trees of questions and answers, kept in SQLite."""
