"""The runs of a home as LangGraph's dev server, and so Studio, has them: threads, assistants, and a graph."""
