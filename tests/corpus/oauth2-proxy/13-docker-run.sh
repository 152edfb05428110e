docker run -ti --rm -p 4180:4180 \
  quay.io/oauth2-proxy/oauth2-proxy \
    --http-address=0.0.0.0:4180 \
    --cookie-secret=SECRET-13 \
    --email-domain=* \
    --provider=keycloak \
    --client-id="web" \
    --client-secret="SECRET-13b" \
    --oidc-issuer-url="https://kc.example.com/auth/realms/gov" \
    --redirect-url="http://localhost:4180/oauth2/callback" \
    --cookie-secure=False \
    --pass-basic-auth=false \
    --set-authorization-header=true \
    --skip-auth-regex="/public|/docs|/_next" \
    --upstream="http://127.0.0.1:3000"
