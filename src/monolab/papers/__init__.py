"""Papers: searching services for them, keeping their full text in `0_docs/papers/`, and reading parts of it.

`search` asks every service of `sources/`, `fetch` saves a text (`page` reads HTML, `pdf` reads PDFs), `saved` reads what was saved,
`bib` writes it as BibTeX. All HTTP goes through `web`.
"""
