"""The script that Streamlit runs on every visit."""

from importlib import import_module

# Streamlit runs a file outside of any package, so nothing relative can be imported here.
import_module("tailbudget.app.pages.site").run()
