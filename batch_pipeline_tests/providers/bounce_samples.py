"""Delivery status notifications as mail systems write them, about a message to patient17@example.test.

In each, ``MESSAGE-ID`` stands for the angle-bracketed Message-ID of the message, ``BOUNCE`` for the address that the
notification goes to.
"""

_POSTFIX = """\
Return-Path: <>
Received: by relay.example.test (Postfix) id 4XJt1d2Z; Thu,  1 Oct 2026 09:00:04 +0000 (UTC)
Date: Thu,  1 Oct 2026 09:00:04 +0000 (UTC)
From: MAILER-DAEMON@relay.example.test (Mail Delivery System)
Subject: {subject}
To: BOUNCE
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status;
\tboundary="4XJt1c.1790845204/relay.example.test"
Content-Transfer-Encoding: 8bit
Message-Id: <20261001090004.4XJt1d2Z@relay.example.test>

This is a MIME-encapsulated message.

--4XJt1c.1790845204/relay.example.test
Content-Description: Notification
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: 8bit

This is the mail system at host relay.example.test.

<patient17@example.test>: host mx.example.test[192.0.2.1] said: 550 5.1.1
    <patient17@example.test>: Recipient address rejected (in reply to RCPT TO command)

--4XJt1c.1790845204/relay.example.test
Content-Description: Delivery report
Content-Type: message/delivery-status

Reporting-MTA: dns; relay.example.test
X-Postfix-Queue-ID: 4XJt1c
X-Postfix-Sender: rfc822; bounce@surgery.example.test
Arrival-Date: Thu,  1 Oct 2026 09:00:03 +0000 (UTC)

Final-Recipient: rfc822; patient17@example.test
Original-Recipient: rfc822;patient17@example.test
Action: {action}
Status: {status}
Remote-MTA: dns; mx.example.test
Diagnostic-Code: smtp; 550 5.1.1 <patient17@example.test>: Recipient address rejected

--4XJt1c.1790845204/relay.example.test
Content-Description: Undelivered Message Headers
Content-Type: text/rfc822-headers
Content-Transfer-Encoding: 8bit

Return-Path: <bounce@surgery.example.test>
Date: Thu, 01 Oct 2026 09:00:00 +0000
From: Riverside Surgery <no-reply@surgery.example.test>
To: patient17@example.test
Subject: Your flu jab
Message-ID:
 MESSAGE-ID

--4XJt1c.1790845204/relay.example.test--
"""

POSTFIX = _POSTFIX.format(subject="Undelivered Mail Returned to Sender", action="failed", status="5.1.1")
POSTFIX_GAVE_UP = _POSTFIX.format(subject="Undelivered Mail Returned to Sender", action="failed", status="4.4.1")
POSTFIX_DELAYED = _POSTFIX.format(subject="Delayed Mail (still being retried)", action="delayed", status="4.4.1")
POSTFIX_DELIVERED = _POSTFIX.format(subject="Successful Mail Delivery Report", action="delivered", status="2.1.5")
POSTFIX_RELAYED = _POSTFIX.format(subject="Mail Delivery Status Report", action="relayed", status="2.0.0")

EXIM = """\
Return-path: <>
Envelope-to: BOUNCE
Delivery-date: Thu, 01 Oct 2026 09:00:05 +0000
Received: from Debian-exim by relay.example.test with local (Exim 4.96) id 1v3abc-000XYZ-0A
\tfor BOUNCE; Thu, 01 Oct 2026 09:00:05 +0000
X-Failed-Recipients: patient17@example.test
Auto-Submitted: auto-replied
From: Mail Delivery System <Mailer-Daemon@relay.example.test>
To: BOUNCE
References: MESSAGE-ID
Content-Type: multipart/report; report-type=delivery-status; boundary=1790845205-eximdsn-1804289383
MIME-Version: 1.0
Subject: Mail delivery failed: returning message to sender
Message-Id: <E1v3abc-000XYZ-0A@relay.example.test>
Date: Thu, 01 Oct 2026 09:00:05 +0000

--1790845205-eximdsn-1804289383
Content-type: text/plain; charset=us-ascii

This message was created automatically by mail delivery software.

  patient17@example.test
    host mx.example.test [192.0.2.1]
    SMTP error from remote mail server after RCPT TO:<patient17@example.test>:
    550 No such user here

--1790845205-eximdsn-1804289383
Content-type: message/delivery-status

Reporting-MTA: dns; relay.example.test

Action: failed
Final-Recipient: rfc822;patient17@example.test
Status: 5.0.0
Remote-MTA: dns; mx.example.test
Diagnostic-Code: smtp; 550 No such user here

--1790845205-eximdsn-1804289383
Content-type: message/rfc822

Return-path: <bounce@surgery.example.test>
From: Riverside Surgery <no-reply@surgery.example.test>
To: patient17@example.test
Subject: Your flu jab
Date: Thu, 01 Oct 2026 09:00:00 +0000
Message-ID: MESSAGE-ID
Auto-Submitted: auto-generated
Content-Type: text/plain; charset="utf-8"
Content-Transfer-Encoding: quoted-printable
MIME-Version: 1.0

Your flu jab is due.

--1790845205-eximdsn-1804289383--
"""

OFFICE_365 = """\
Received: from LO2P265MB0001.GBRP265.PROD.OUTLOOK.COM (2603:10a6:600:1::1) by
 LO2P265MB0002.GBRP265.PROD.OUTLOOK.COM with HTTPS; Thu, 1 Oct 2026 09:00:10 +0000
From: Microsoft Outlook
\t<MicrosoftExchange329e71ec88ae4615bbc36ab6ce41109e@example.test>
To: "BOUNCE" <BOUNCE>
Date: Thu, 1 Oct 2026 09:00:10 +0000
Content-Type: multipart/report; report-type=delivery-status;
\tboundary="ba5bd2bf-75b0-47ba-8bd9-1fbd38d2b0da"
Content-Language: en-GB
Message-ID:
 <59f2b9ab-4a85-4bd7-8b7f-ae24ed8d0e2e@LO2P265MB0001.GBRP265.PROD.OUTLOOK.COM>
In-Reply-To:
 MESSAGE-ID
References:
 MESSAGE-ID
Thread-Topic: Your flu jab
Subject: Undeliverable: Your flu jab
Auto-Submitted: auto-replied
X-MS-PublicTrafficType: Email
MIME-Version: 1.0

--ba5bd2bf-75b0-47ba-8bd9-1fbd38d2b0da
Content-Type: multipart/alternative; differences=Content-Type;
\tboundary="bb4a3f9a-9e2a-4d7a-a7a2-6a8f4c5c7d11"

--bb4a3f9a-9e2a-4d7a-a7a2-6a8f4c5c7d11
Content-Type: text/plain; charset="us-ascii"
Content-Transfer-Encoding: quoted-printable

Your message to patient17@example.test couldn't be delivered.

--bb4a3f9a-9e2a-4d7a-a7a2-6a8f4c5c7d11
Content-Type: text/html; charset="us-ascii"
Content-Transfer-Encoding: quoted-printable

<html><body>Your message to patient17@example.test couldn't be delivered.</bo=
dy></html>

--bb4a3f9a-9e2a-4d7a-a7a2-6a8f4c5c7d11--

--ba5bd2bf-75b0-47ba-8bd9-1fbd38d2b0da
Content-Type: message/delivery-status

Reporting-MTA: dns;LO2P265MB0001.GBRP265.PROD.OUTLOOK.COM
Received-From-MTA: dns;relay.example.test
Arrival-Date: Thu, 1 Oct 2026 09:00:08 +0000

Final-Recipient: rfc822;patient17@example.test
Action: failed
Status: 5.1.10
Diagnostic-Code: smtp;550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient patient17@example.test not found by SMTP address lookup
X-Display-Name: patient17@example.test

--ba5bd2bf-75b0-47ba-8bd9-1fbd38d2b0da
Content-Type: message/rfc822

Received: from relay.example.test (192.0.2.2) by LO2P265MB0001.GBRP265.PROD.OUTLOOK.COM; Thu, 1 Oct 2026 09:00:08 +0000
From: Riverside Surgery <no-reply@surgery.example.test>
To: <patient17@example.test>
Subject: Your flu jab
Date: Thu, 1 Oct 2026 09:00:00 +0000
Message-ID: MESSAGE-ID
Content-Type: text/plain; charset="utf-8"
MIME-Version: 1.0

Your flu jab is due.

--ba5bd2bf-75b0-47ba-8bd9-1fbd38d2b0da--
"""

EXCHANGE_FULL = (
    OFFICE_365.replace("Status: 5.1.10", "Status: 5.2.2")
    .replace("RESOLVER.ADR.RecipientNotFound; Recipient patient17@example.test not found", "STOREDRV; mailbox full")
    .replace("\n", "\r\n")
)

GMAIL = """\
Delivered-To: BOUNCE
Return-Path: <>
Received: by 2002:a05:6402:1::1 with SMTP id abc; Thu, 01 Oct 2026 02:00:06 -0700 (PDT)
Content-Type: multipart/report; boundary="000000000000a1b2c3061234abcd"; report-type=delivery-status
To: BOUNCE
Subject: Delivery Status Notification (Failure)
Auto-Submitted: auto-replied
From: Mail Delivery Subsystem <mailer-daemon@mail.example.test>
In-Reply-To: MESSAGE-ID
References: MESSAGE-ID
Date: Thu, 01 Oct 2026 02:00:06 -0700 (PDT)
Message-ID: <66fb0a16.050a0220.12345.abcd.GMR@mx.mail.example.test>
X-Failed-Recipients: patient17@example.test

--000000000000a1b2c3061234abcd
Content-Type: multipart/related; boundary="000000000000a1b2c8061234abce"

--000000000000a1b2c8061234abce
Content-Type: multipart/alternative; boundary="000000000000a1b2cc061234abcf"

--000000000000a1b2cc061234abcf
Content-Type: text/plain; charset="UTF-8"

** Address not found **

Your message wasn't delivered to patient17@example.test because the address couldn't be found.

--000000000000a1b2cc061234abcf
Content-Type: text/html; charset="UTF-8"

<html><body>Address not found</body></html>

--000000000000a1b2cc061234abcf--
--000000000000a1b2c8061234abce
Content-Type: image/png; name="icon.png"
Content-Disposition: attachment; filename="icon.png"
Content-Transfer-Encoding: base64
Content-ID: <icon.png>

iVBORw0KGgo=
--000000000000a1b2c8061234abce--
--000000000000a1b2c3061234abcd
Content-Type: message/delivery-status

Reporting-MTA: dns; mail.example.test
Received-From-MTA: dns; bounce@surgery.example.test
Arrival-Date: Thu, 01 Oct 2026 02:00:05 -0700 (PDT)
X-Original-Message-ID: MESSAGE-ID

Final-Recipient: rfc822; patient17@example.test
Action: failed
Status: 5.1.1
Remote-MTA: dns; mx.example.test. (192.0.2.1, the server for the domain example.test.)
Diagnostic-Code: smtp; 550-5.1.1 The email account that you tried to reach does not exist.
 550 5.1.1  Please try double-checking the address. - gsmtp
Last-Attempt-Date: Thu, 01 Oct 2026 02:00:06 -0700 (PDT)

--000000000000a1b2c3061234abcd
Content-Type: message/rfc822

DKIM-Signature: v=1; a=rsa-sha256; d=surgery.example.test; s=1; b=abc
From: Riverside Surgery <no-reply@surgery.example.test>
To: patient17@example.test
Subject: Your flu jab
Message-ID:
 MESSAGE-ID

----- Message truncated -----

--000000000000a1b2c3061234abcd--
"""

GATEWAY = "\n".join(  # an antivirus gateway wraps what passes through it
    [
        "From: MAILER-DAEMON@gateway.example.test",
        "To: BOUNCE",
        "Subject: Undelivered Mail",
        "MIME-Version: 1.0",
        'Content-Type: multipart/mixed; boundary="outer"',
        "",
        "--outer",
        'Content-Type: multipart/report; report-type=delivery-status; boundary="inner"',
        "",
        "--inner",
        "Content-Type: message/delivery-status",
        "",
        "Reporting-MTA: dns; gateway.example.test",
        "",
        "Final-Recipient: rfc822; patient17@example.test",
        "ACTION: Failed (undeliverable)".replace(" (undeliverable)", ""),
        "Status: 5.7.1 (refused by policy)",
        "",
        "--inner",
        "Content-Type: text/rfc822-headers",
        "Content-Transfer-Encoding: base64",
        "",
        "BASE64-OF-THE-HEADERS",
        "--inner--",
        "--outer",
        "Content-Type: text/plain",
        "",
        "Scanned.",
        "--outer--",
        "",
    ]
)

WITHOUT_HEADERS = """\
From: MAILER-DAEMON@old.example.test
To: BOUNCE
Date: Thu, 1 Oct 2026 09:00:10 +0000
Subject: Returned mail: see transcript for details
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status; boundary="b1"

--b1

The following address had permanent fatal errors: <patient17@example.test>

--b1
Content-Type: message/delivery-status

Reporting-MTA: dns; old.example.test

Final-Recipient: RFC822; patient17@example.test
Action: failed
Status: 5.1.1

--b1--
"""

OUT_OF_OFFICE = """\
From: patient17@example.test
To: BOUNCE
Subject: Automatic reply: Your flu jab
In-Reply-To: MESSAGE-ID
References: MESSAGE-ID
Auto-Submitted: auto-replied
Date: Thu, 1 Oct 2026 09:00:10 +0000
Message-ID: <ooo@example.test>
Content-Type: text/plain

I'm on holiday.
"""

SPAM = """\
From: someone@spam.example.test
To: BOUNCE
Subject: Undelivered Mail Returned to Sender
Date: Thu, 1 Oct 2026 09:00:10 +0000
Content-Type: text/html

<a href="http://spam.example.test">message/delivery-status Action: failed Status: 5.1.1</a>
"""
