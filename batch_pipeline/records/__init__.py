"""The record writer: what was sent, as FHIR R4 resources, written to patients' records once each (SPEC 2.13).

``communication`` makes the resources and ``validity`` checks them; ``writer`` says what a writer is, ``folder`` and
``fhir_server`` are the two there are; ``saving`` has them write, each entry once, whatever dies when.
"""
