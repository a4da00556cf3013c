// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Relay} from "../../../src/interfaces/IComputeEscrow.sol";
import {TypedData} from "../../support/TypedData.sol";
import {Accounts} from "../Accounts.sol";

/// @notice Tokens in and out, fees, donations, and the time that passes.
abstract contract FundsActions is Accounts {
    uint256 private _nonce;

    function deposit(uint256 seed) external acting(seed) {
        address account = _anyone();
        uint256 amount = 1 + _draw(200 * SCALE);
        TOKEN.mint(account, amount);
        uint256 approved = _once(6) ? amount - 1 : amount;
        vm.prank(account);
        TOKEN.approve(address(ESCROW), approved);
        bool may = approved == amount;
        _bring(may, account, amount);
        _do("deposit", may, account, abi.encodeCall(ESCROW.deposit, (amount)));
        _takeBack(account);
    }

    /// @dev Anyone pays for any account, a purse included.
    function depositFor(uint256 seed) external acting(seed) {
        (address payer, address account) = (_anyone(), _once(12) ? address(0) : _anyAccount());
        uint256 amount = 1 + _draw(50 * SCALE);
        TOKEN.mint(payer, amount);
        vm.prank(payer);
        TOKEN.approve(address(ESCROW), amount);
        bool may = account != address(0);
        _bring(may, account, amount);
        _do("depositFor", may, payer, abi.encodeCall(ESCROW.depositFor, (account, amount)));
        _takeBack(payer);
    }

    /// @dev A permit may be forged, for less, or used by somebody else first.
    function depositWithPermit(uint256 seed) external acting(seed) {
        address account = _anyone();
        uint256 amount = 1 + _draw(200 * SCALE);
        TOKEN.mint(account, amount);
        uint256 flaw = _draw(6);
        bytes32 structHash = keccak256(
            abi.encode(
                keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"),
                account,
                address(ESCROW),
                flaw == 1 ? amount - 1 : amount,
                TOKEN.nonces(account),
                type(uint256).max
            )
        );
        (uint8 v, bytes32 r, bytes32 s) = _signForToken(flaw == 2 ? stranger : account, structHash);
        if (flaw == 3) TOKEN.permit(account, address(ESCROW), amount, type(uint256).max, v, r, s);
        bool permitted = flaw != 1 && (flaw != 2 || account == stranger);
        bool may = permitted || TOKEN.allowance(account, address(ESCROW)) >= amount; // left by a deposit that failed
        _bring(may, account, amount);
        _do(
            "depositWithPermit",
            may,
            account,
            abi.encodeCall(ESCROW.depositWithPermit, (amount, type(uint256).max, v, r, s))
        );
        _takeBack(account);
    }

    /// @dev Anyone may send an authorization, for its signer's balance alone, and once.
    function depositWithAuthorization(uint256 seed) external acting(seed) {
        address account = _anyone();
        uint256 amount = 1 + _draw(200 * SCALE);
        TOKEN.mint(account, amount);
        uint256 flaw = _draw(5);
        bytes memory data = _authorized(account, flaw == 1 ? stranger : account, amount, bytes32(++_nonce));
        bool may = flaw != 1 || account == stranger;
        _bring(may, account, amount);
        _do("depositWithAuthorization", may, _anyone(), data);
        if (may && flaw == 2) _do("depositWithAuthorization", false, _anyone(), data);
        _takeBack(account);
    }

    function _authorized(address from, address signer, uint256 amount, bytes32 nonce)
        private
        view
        returns (bytes memory)
    {
        uint256 last = type(uint256).max;
        bytes32 structHash =
            keccak256(abi.encode(TOKEN.RECEIVE_TYPEHASH(), from, address(ESCROW), amount, 0, last, nonce));
        (uint8 v, bytes32 r, bytes32 s) = _signForToken(signer, structHash);
        return abi.encodeCall(ESCROW.depositWithAuthorization, (from, amount, 0, last, nonce, v, r, s));
    }

    function _signForToken(address signer, bytes32 structHash) private view returns (uint8 v, bytes32 r, bytes32 s) {
        bytes32 digest = keccak256(abi.encodePacked(hex"1901", TOKEN.DOMAIN_SEPARATOR(), structHash));
        return vm.sign(_keys[signer], digest);
    }

    function _bring(bool may, address account, uint256 amount) private {
        if (!may) return;
        _involve(account);
        deposited[account] += amount;
    }

    /// @dev What a deposit left outside goes, so that tokens outside are what was withdrawn.
    function _takeBack(address account) private {
        uint256 left = TOKEN.balanceOf(account) - received[account];
        if (left == 0) return;
        vm.prank(account);
        TOKEN.transfer(address(this), left);
    }

    /// @dev No state of a lease stops it; only the token may, and only the payee that it names.
    function withdraw(uint256 seed) external acting(seed) {
        address account = _anyone();
        uint256 free = _balances[account];
        uint256 amount = _draw(free + free / 8 + 2);
        if (_once(3)) amount /= 16;
        bool may = amount > 0 && amount <= free && !TOKEN.refuses(account);
        if (may) _take(account, account, amount);
        _do("withdraw", may, account, abi.encodeCall(ESCROW.withdraw, (account, amount)));
    }

    function _take(address account, address to, uint256 amount) private {
        _involve(account);
        withdrawn[account] += amount;
        received[to] += amount;
    }

    /// @dev By way of anyone, for a fee. Signed by another, late, sent twice or by another relayer it moves nothing; and
    /// nobody signs for a purse.
    function withdrawBySignature(uint256 seed) external acting(seed) {
        (address account, address to, address sender) = (_once(8) ? _anyAccount() : _anyone(), _anyone(), _anyone());
        uint256 amount = _draw(_balances[account] / (_once(6) ? 1 : 4) + 2);
        Relay memory relay = _someRelay(sender, amount);
        address signer = _once(12) || _isPurse(account) ? _anyone() : account;
        bool may = signer == account && !TOKEN.refuses(to) && _withdraws(account, amount, relay, sender);
        if (may) {
            _noteRelay(account, relay, sender);
            _take(account, to, amount - relay.fee);
        }
        bytes memory signature = _sign(signer, TypedData.withdraw(account, to, amount, relay));
        bytes memory data = abi.encodeCall(ESCROW.withdrawBySignature, (account, to, amount, relay, signature));
        _do("withdrawBySignature", may, sender, data);
        if (may && _once(4)) _do("withdrawBySignature", false, sender, data);
    }

    /// @dev What the account pays itself as relayer it has once more.
    function _withdraws(address account, uint256 amount, Relay memory relay, address sender)
        private
        view
        returns (bool)
    {
        uint256 back = sender == account ? relay.fee : 0;
        return relay.fee < amount && _relays(account, relay, sender) && amount <= _balances[account] + back;
    }

    function collectFees(uint256 seed) external acting(seed) {
        address[] memory from = new address[](2);
        (from[0], from[1]) = (providers[_draw(2)], _anyone());
        _involve(feeRecipient);
        for (uint256 i = 0; i < 2; i++) {
            _involve(from[i]);
            collected[from[i]] += i == 1 && from[0] == from[1] ? 0 : _fees[from[i]];
        }
        _do("collectFees", true, _anyone(), abi.encodeCall(ESCROW.collectFees, (from)));
    }

    function donate(uint256 seed) external acting(seed) {
        uint256 amount = 1 + _draw(10 * SCALE);
        TOKEN.mint(address(ESCROW), amount);
        donated += amount;
    }

    /// @dev The token refuses payments to an account, or no longer does.
    function refuse(uint256 seed) external acting(seed) {
        TOKEN.setRefused(_anyone(), _once(3));
    }

    function wait_(uint256 seed) external acting(seed) {
        vm.warp(vm.getBlockTimestamp() + 1 + _draw(_once(8) ? 90 minutes : 10 minutes));
    }
}
