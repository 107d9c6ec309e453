"""Labelling runs: answers that are data. Pure; no file, no HTTP.

classes   --labels as classes with descriptions
narrow    a user's JSON schema -> the subset that strict endpoints take, and what had to be moved
strict    the check of that subset
task      settings -> what is asked and how an answer counts
reading   an answer -> the values that it may mean
columns   a validated value -> typed columns
ladder    the strongest way to ask that an endpoint takes, learned from its answers
"""
