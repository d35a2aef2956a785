"""What people read of a batch: CSV files that open clean in a spreadsheet.

``columns`` says what stands in each report, ``lists`` makes its rows, ``csv_files`` writes them.
"""
