"""Load tests: ``vllm bench serve`` against servers, its figures kept, compared and exported.

Nothing is imported here: whoever needs a part names its module.
"""
