args = [
  "--http-address=0.0.0.0:4180",
  "--upstream=http://127.0.0.1:8003",
  "--provider=oidc",
  "--oidc-issuer-url=https://vault.example.com/v1/identity/oidc/provider/int",
  "--client-id=triton", "--scope=openid int-profile",
  "--email-domain=*",
  "--redirect-url=https://triton.example.com/oauth2/callback",
  "--cookie-samesite=none",
  "--cors-allow-credentials=true",
]
