"""How models see pictures. Pure rules.

families   what size of a picture a family of models keeps, and how many tokens that is
models     which model belongs to which family: dated figures with their sources
sizes      settings and model -> the size in which a picture is sent
"""
