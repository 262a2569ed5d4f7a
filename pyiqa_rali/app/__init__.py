"""A page in the browser, on this computer: `pyiqa-rali app`.

Gradio serves it and calls its functions. The page itself is ours (page.html, page.css, page.js): what Gradio 6.31 draws takes
no folder that is dropped on it, and some of its parts load fonts and scripts from elsewhere.
"""
