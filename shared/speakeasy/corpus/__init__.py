"""Raw text: from files of many kinds to cleaned documents, and what there is of it."""
