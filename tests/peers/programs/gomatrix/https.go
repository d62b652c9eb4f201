package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"log"
	"math/big"
	"net"
	"net/http"
	"time"
)

// encrypted is where HTTPS is spoken: the same port of an address of the loopback of its own.
func encrypted(hostPort string) string {
	_, port, _ := net.SplitHostPort(hostPort)
	return "127.0.0.3:" + port
}

// serveHTTPS serves HTTP/1 and HTTP/2 over TLS, with a certificate of its own making.
func serveHTTPS(address string, handler http.Handler) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	told := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour)}
	made, err := x509.CreateCertificate(rand.Reader, told, told, &key.PublicKey, key)
	if err != nil {
		log.Fatal(err)
	}
	certificate := tls.Certificate{Certificate: [][]byte{made}, PrivateKey: key}
	server := &http.Server{
		Addr:      encrypted(address),
		Handler:   handler,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}},
	}
	log.Fatal(server.ListenAndServeTLS("", ""))
}

// overTLS makes a transport speak TLS, and HTTP/2 in it where `multiplexed`.
func overTLS(transport *http.Transport, multiplexed bool) *http.Transport {
	transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
	transport.Protocols = new(http.Protocols)
	transport.Protocols.SetHTTP1(!multiplexed)
	transport.Protocols.SetHTTP2(multiplexed)
	return transport
}
