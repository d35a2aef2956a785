"""Questionnaires: FHIR in, forms for pages, posted answers, and FHIR out (SPEC 2.6, 2.12; PROVIDERS 5).

Pure: no ledger, no web, no clock. ``library`` finds a home's questionnaires, ``definition`` makes a ``form`` of one,
``posting`` reads what a page posted into ``answers``, ``responses`` and ``blood_pressure`` make FHIR resources of those.
"""
