"""The demo: a RAG assistant over the texts of the installed Python packages, and the traffic that exercises it."""
